"""Calls to the Hub: what may pass is tried again, and what will not becomes one line in the user's words.

The only module that catches what huggingface_hub raises. Tokens stay in its client and never reach a message.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from urllib.parse import urlsplit

from selfinstruct_hub import __version__
from selfinstruct_hub.endpoint.connect import secrets
from selfinstruct_hub.endpoint.failures import shown
from selfinstruct_hub.errors import HubAccessError, HubConflictError, HubError, UsageError
from selfinstruct_hub.hub.client import asked_to_wait, quiet, session

if TYPE_CHECKING:
    from huggingface_hub import HfApi

ATTEMPTS = 5
PATIENCE = 300.0  # seconds without a byte
REPO_TYPE = "dataset"
_FIRST_PAUSE = 1.0  # seconds, doubled each time
_LONGEST_PAUSE = 300.0  # a longer wait is left to the user
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
# A dataset of this name would run the release's own script when it is loaded (`datasets` before 4).
_SCRIPT_NAME = "loading_script"
T = TypeVar("T")

Say = Callable[[str], None]


class AbsentError(HubError):
    """The repository is not there, or not for this token."""


class RevisionAbsentError(HubError):
    """The repository has no such revision."""


class FileAbsentError(HubError):
    """The revision has no such file."""


class ConflictError(HubConflictError):
    """409 or 412: something is there already, or has moved on. The caller knows what it means."""


class _Passing(Exception):
    """A failure that another try may mend, after `wait` seconds if it says."""

    def __init__(self, said: str, wait: float | None = None) -> None:
        super().__init__(said)
        self.said, self.wait = said, wait


class Connection:
    """One Hub, with its client and a token."""

    def __init__(
        self,
        *,
        endpoint: str | None = None,
        token: str | None = None,
        say: Say = lambda text: None,
        pause: Callable[[float], None] = time.sleep,
        patience: float = PATIENCE,
    ) -> None:
        """`endpoint` and `token` are HF_ENDPOINT and the stored login unless given; `say` hears of every try that
        failed. Raises HubAccessError where the machine is told to stay offline or the token can be none, and
        UsageError for an endpoint that is no address."""
        from huggingface_hub import HfApi, configure_http_backend, constants, get_token

        if constants.HF_HUB_OFFLINE and endpoint is None:
            raise HubAccessError("HF_HUB_OFFLINE is set; unset it to reach the Hub")
        _check_address(endpoint or constants.ENDPOINT)
        self.token = token or get_token()
        if self.token and not re.fullmatch("[!-~]+", self.token):
            raise HubAccessError(
                "the token for the Hub has a character that no token has; look at HF_TOKEN, or use `hf auth login`"
            )
        # False: no other token is looked for.
        self.api: HfApi = HfApi(
            endpoint=endpoint or constants.ENDPOINT,
            token=self.token or False,
            library_name="selfinstruct-hub",
            library_version=__version__,
        )
        configure_http_backend(lambda: session(patience))
        # Xet's own client keeps trying in silence for minutes and knows none of our time-outs. The Hub hands out
        # and takes the same files over plain HTTP, which is the way that open files go in any case.
        constants.HF_HUB_DISABLE_XET = True
        self._say = say
        self._pause = pause
        self._secrets = secrets()

    @property
    def endpoint(self) -> str:
        """The address, as it may be shown."""
        return shown(self.api.endpoint)

    def page(self, name: str) -> str:
        """Where a person looks at the dataset."""
        return f"{self.endpoint}/datasets/{name}"

    def refs(self, name: str, *, pulls: bool = False) -> Any:
        """Branches and tags of a dataset, and its pull requests where asked for. It is the first thing that is
        asked of a Hub without a token, so another kind of server is noticed here."""

        def ask() -> Any:
            try:
                return self.api.list_repo_refs(name, repo_type=REPO_TYPE, include_pull_requests=pulls)
            except (KeyError, TypeError):  # how the client finds that the answer has another form
                raise HubError(self.no_hub) from None

        return self.call(f"looking at {name}", ask)

    @property
    def no_hub(self) -> str:
        """That the address belongs to something else."""
        return f"{self.endpoint} answers, but not as a Hub does; look at HF_ENDPOINT"

    def call(
        self,
        what: str,
        function: Callable[..., T],
        *args: Any,
        again: Callable[[], T | None] | None = None,
        **more: Any,
    ) -> T:
        """`function(*args, **more)`, tried again where the failure may pass; `what` names it in messages.

        Before another try `again` is asked whether the last one has done its work after all, and with what result.
        Raises HubError or one of those above.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                if attempt > 1 and again is not None and (found := again()) is not None:
                    return found
                with quiet(), self._named(what):
                    return function(*args, **more)
            except _Passing as failure:
                wait = _FIRST_PAUSE * 2 ** (attempt - 1) if failure.wait is None else failure.wait
                if attempt == ATTEMPTS or wait > _LONGEST_PAUSE:
                    asked = f" and asks to wait {wait:.0f} s" if failure.wait else ""
                    raise HubError(
                        f"{self.endpoint}: {what} failed ({failure.said}){asked}; the same command goes on later"
                    ) from None
                self._say(f"{what}: {failure.said}; trying again in {wait:.0f} s")
                self._pause(wait)
        raise AssertionError("the last attempt returns or raises")

    @contextmanager
    def _named(self, what: str) -> Iterator[None]:
        """Whatever the client raises, as one of ours or as what may pass."""
        import requests
        from huggingface_hub import errors

        try:
            yield
        except errors.OfflineModeIsEnabled:
            raise HubAccessError("HF_HUB_OFFLINE is set; unset it to reach the Hub") from None
        except RuntimeError as error:
            # An upload's own error hides below the one of the thread it ran in.
            cause = error.__cause__
            if not isinstance(cause, (requests.RequestException, errors.HfHubHTTPError)):
                raise
            self._raise(what, cause)
        except errors.LocalEntryNotFoundError as error:
            # What a download met hides below the file that is not here yet.
            cause = error.__cause__
            self._raise(what, cause if isinstance(cause, Exception) else error)
        except (errors.HfHubHTTPError, requests.RequestException) as error:
            self._raise(what, error)

    def _raise(self, what: str, error: Exception) -> NoReturn:
        import requests
        from huggingface_hub import errors

        response = getattr(error, "response", None)
        if response is None:
            if isinstance(error, requests.JSONDecodeError):  # a page, where the Hub has an object
                raise HubError(self.no_hub) from None
            raise _Passing(self._words(error)) from None
        status = response.status_code
        said = self._said(response)
        if status in _TRANSIENT:
            raise _Passing(f"HTTP {status}", asked_to_wait(response.headers)) from None
        if status == 401 and self.token and not isinstance(error, errors.RepositoryNotFoundError):
            raise HubAccessError(
                f"{self.endpoint} does not accept the token; make one at {self.endpoint}/settings/tokens and set "
                "HF_TOKEN or use `hf auth login`"
            ) from None
        if isinstance(error, errors.GatedRepoError):
            raise HubAccessError(f"{what}: access is granted on request only; ask for it on its page") from None
        if isinstance(error, errors.RevisionNotFoundError):
            raise RevisionAbsentError(f"{what}: no such revision") from None
        if isinstance(error, errors.EntryNotFoundError):
            raise FileAbsentError(f"{what}: {said or 'no such file'}") from None
        if isinstance(error, errors.RepositoryNotFoundError):
            raise AbsentError(f"{what}: no such dataset, or not for this token") from None
        if status in (401, 403):
            raise HubAccessError(f"{what}: {self.endpoint} refuses ({said or f'HTTP {status}'})") from None
        if status in (409, 412):
            raise ConflictError(f"{what}: {said or f'HTTP {status}'}") from None
        raise HubError(f"{what}: {self.endpoint} refuses (HTTP {status}{f': {said}' if said else ''})") from None

    def _said(self, response: Any) -> str:
        """The server's own words, on one line."""
        text = response.headers.get("X-Error-Message")
        if not text:
            try:
                found = response.json()
                text = found.get("error") if isinstance(found, Mapping) else None
            except ValueError:
                text = None
        return self.words(str(text or ""))

    def words(self, text: str) -> str:
        """What a server said, on one line and without keys."""
        return self._secrets.hide(" ".join(text.split()))[:300]

    def _words(self, error: BaseException) -> str:
        """A connection that failed, without the address."""
        text = str(error)
        for pattern, words in (
            (r"refused", "connection refused"),
            (r"timed out|timeout", "no answer in time"),
            (r"resolve|Name or service", "no such host"),
            (r"RemoteDisconnected|aborted|reset|Broken pipe|ncomplete", "the connection was cut"),
        ):
            if re.search(pattern, text, re.IGNORECASE):
                return words
        return type(error).__name__


def _check_address(endpoint: str) -> None:
    try:
        parts = urlsplit(endpoint)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise UsageError("HF_ENDPOINT is no address; expected one such as https://hub.example.org, or none at all")


def check_name(name: str) -> str:
    """`name` if it is ORG/NAME as the Hub allows it. Raises UsageError otherwise, and for the one name that a
    release cannot be loaded under."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(name)
        valid = name.count("/") == 1
    except HFValidationError:
        valid = False
    if not valid:
        raise UsageError(
            f"{name!r} is no name of a dataset on the Hub; expected ORG/NAME of letters, digits, `-`, `_` and "
            "`.`, such as my-org/my-tasks"
        )
    if name.split("/")[1].lower().removesuffix(".py") == _SCRIPT_NAME:
        raise UsageError(
            f"{name}: a dataset must not be called like the script that lies in it, because older versions of "
            "`datasets` would run that; choose another NAME"
        )
    return name
