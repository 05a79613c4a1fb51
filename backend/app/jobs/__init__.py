"""Documents read page by page: jobs that survive the process that runs them."""
