"""Publishing: releases onto the Hub and back. The only room that writes there.

One atomic commit and one tag a release. Nothing here decides what a release is.
"""
