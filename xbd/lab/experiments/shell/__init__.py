"""Running a grid: processes, clusters, and the directory of results."""
