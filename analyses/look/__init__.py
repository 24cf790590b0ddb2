"""One prompt, looked at from all sides: no analysis, but what several of them say of a single answer."""
