"""The HTTP API and its web page: the only folder that uses FastAPI."""
