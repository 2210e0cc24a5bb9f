"""What measures a real machine's memory: `measure` writes a trace, while `holder` processes hold memory."""
