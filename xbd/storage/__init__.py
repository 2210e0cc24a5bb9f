"""Arrays that outlive a process: the image of a host as named sections, the undo log of a step, a store in memory."""
