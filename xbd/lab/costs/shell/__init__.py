"""What of the costs reaches outside: price files, and the measurement of the machine at hand."""
