"""What runs inside a measured process. The scripts of the peers import nothing of mosear: it is not installed there."""
