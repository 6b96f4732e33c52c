"""A child process with limits reads untrusted model files before this process does."""
