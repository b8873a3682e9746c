"""What the commands of all packages share: command lines, worker processes, files, provenance."""
