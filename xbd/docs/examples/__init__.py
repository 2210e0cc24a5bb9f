"""Programs to begin with, each run by a test: two toolstacks, tests with a host, a plot of a series."""
