"""The part of replays that draws pictures and writes them."""
