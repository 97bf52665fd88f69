"""The exception tree. Every error a user can cause or meet derives from SelfInstructError.

    SelfInstructError            exit 1: failed; the message says what happened and what to do
      UsageError                 exit 2: wrong usage or configuration
        ConfigError                a setting in selfinstruct.yaml
        SeedError                  a seed file, or a dataset of seeds
        FormatError                a file to import, or one to export to
        DataFileError              a file or folder of rows to read or to write
        ReviewError                a file that people edit, with what they decided
        WorkspaceError             a directory that is not what the command needs
      BadRowError                a row of such a file that has no instruction
      PoolError                  the pool cannot be used (newer version, damaged, locked, disk full)
        WorkspaceBusyError         another process grows this workspace
      EndpointError              the endpoint
        EndpointUnreachableError   nothing answers there, or it stopped answering
        EndpointAuthError          it wants a token, or refuses the one it got
        EndpointProtocolError      it answers, but not in the protocol
        EndpointRefusedError       it refuses the request itself (never retried unchanged)
        RequestFailedError         one request was tried as often as is allowed, and never answered
      LocalEngineError           the embedded engine
        ModelNotFoundError         no weights, or a file that is none
        GrammarError               a grammar the engine cannot compile in time
      ClusterError               the Ray cluster that compares cannot be used, or failed
      ReleaseError               a release cannot be written or read
      HubError                   the Hub cannot be asked, or says no
        HubAccessError             no token, or one that may not do this
        HubConflictError           what is published there is not what would be built upon

The CLI is the only place that catches SelfInstructError: it prints the message as one line and exits with
`exit_code`. Anything else that escapes is our bug and keeps its traceback. A stop that is no failure (a
budget, a cap) is not an exception: see `grow.RoundOutcome`.
"""


class SelfInstructError(Exception):
    """Root of every error this project raises on purpose. `str(error)` is one line for the user."""

    exit_code = 1


class UsageError(SelfInstructError):
    """Wrong usage or configuration."""

    exit_code = 2


class ConfigError(UsageError):
    """A setting in selfinstruct.yaml, or on the command line, that cannot be used."""


class SeedError(UsageError):
    """A seed file with a broken row; the message names file, row and field."""


class FormatError(UsageError):
    """A file in none of the formats, or with broken rows; the message names file, row and field."""


class DataFileError(UsageError):
    """A file or folder of rows that cannot be read or written; the message names file, row and field."""


class ReviewError(UsageError):
    """A file of a review that cannot be written or taken back; the message names file, row and field."""


class WorkspaceError(UsageError):
    """A directory that is not a workspace, or not an empty one."""


class BadRowError(SelfInstructError):
    """A row without an instruction, where every row must have one; the message names file, row and field."""


class PoolError(SelfInstructError):
    """The pool cannot be used."""


class WorkspaceBusyError(PoolError):
    """Another process holds the workspace."""


class EndpointError(SelfInstructError):
    """The endpoint cannot be used."""


class EndpointUnreachableError(EndpointError):
    """Nothing answers at the address, or it stopped answering."""


class EndpointAuthError(EndpointError):
    """The endpoint wants a token or refuses the one it got."""


class EndpointProtocolError(EndpointError):
    """Something answers, but not in the expected protocol."""


class EndpointRefusedError(EndpointError):
    """The endpoint refuses the request itself; sending it again unchanged is pointless.

    `said` are the endpoint's words alone, without its address: they may be published."""

    def __init__(self, message: str, *, said: str = "") -> None:
        super().__init__(message)
        self.said = said


class RequestFailedError(EndpointError):
    """One request was tried as often as is allowed, and never answered. `reason` is one of records.FAILURES,
    `said` the last try's words without addresses and secrets, `tries` how often it was tried."""

    def __init__(self, message: str, *, reason: str, said: str, tries: int) -> None:
        super().__init__(message)
        self.reason = reason
        self.said = said
        self.tries = tries


class LocalEngineError(SelfInstructError):
    """The embedded engine failed or is not installed."""


class ModelNotFoundError(LocalEngineError):
    """No weights, or a file that holds none."""

    exit_code = 2


class GrammarError(LocalEngineError):
    """A grammar that the engine cannot compile in time, or at all."""


class ClusterError(SelfInstructError):
    """A Ray cluster that is not installed, not to be reached, or that lost a worker."""


class ReleaseError(SelfInstructError):
    """A release cannot be written or read."""


class HubError(SelfInstructError):
    """The Hub cannot be asked, says no, or what it has cannot be used."""


class HubAccessError(HubError):
    """There is no token, or it may not do this."""


class HubConflictError(HubError):
    """A branch or a tag on the Hub is not what this workspace has published."""
