"""The two protocols of X-ARES: a linear head and k-NN on embeddings averaged over time."""
