"""REST, server-sent events, the dashboard and the command line. The only floor that knows HTTP."""
