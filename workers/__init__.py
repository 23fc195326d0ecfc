"""Where candidates are built and scored: jobs, pools (local and Ray), the controller. The only floor that knows Ray."""
