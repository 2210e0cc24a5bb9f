"""How far the guest model is from real guests."""
