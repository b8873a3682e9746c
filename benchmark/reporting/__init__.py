"""HTML report, plots, videos and tables."""
