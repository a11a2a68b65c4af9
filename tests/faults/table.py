"""What can go wrong in a run, by number: the rows of the table that `make test-faults` prints."""

FAULTS = {
  1: "kill -9 at random moments, mid-save included",
  2: "SIGTERM and Ctrl-C",
  3: "one of two processes killed",
  4: "resumed on other processes, devices and meshes",
  5: "shards truncated, flipped, empty, vanishing, slow",
  6: "NaN in a gradient under a finite loss",
  7: "disk full during a save",
  8: "folder read-only, vanished, or used twice",
  9: "a flipped byte in a saved array",
  10: "a checkpoint of another configuration or version",
  11: "a data worker killed or hung",
  12: "hostile weight files and shards",
  13: "a soak: memory, handles and threads flat",
  14: "fuzzed readers",
}
