"""The embedded engine, and a loopback server that lets it speak text-generation-inference's protocol.

Nothing here is imported unless it is asked for: importing this package, or `child`, loads neither openvino
nor aiohttp. The rest of the tool meets this room only through HTTP.
"""
