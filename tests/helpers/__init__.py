"""What several tests use: experiments, trees, runs, checkpoints, a shell."""
