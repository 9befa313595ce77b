"""Reports: one row a metric, and the views for reporting jobs."""
