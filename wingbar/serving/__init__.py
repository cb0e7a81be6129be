"""The HTTP API and its web page: the only place with FastAPI."""
