"""HTTP: thin routes that parse, call one function and return."""
