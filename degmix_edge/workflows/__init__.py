"""What users name: one file a capability. The command line calls these and prints the results."""
