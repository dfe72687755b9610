"""What a power cut leaves: a process recorded call by call, and every disk that a cut could have left of it."""
