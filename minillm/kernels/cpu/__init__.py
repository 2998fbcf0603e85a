"""The operations compiled for this machine's processor."""
