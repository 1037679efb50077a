"""Lightning callbacks: each one concern of a run, none knows another."""
