"""What crosses the network: frames, the codec and the signed entry."""
