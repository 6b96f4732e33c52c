"""Log-likelihoods of answers, in packed batches that compute shared prefixes once."""
