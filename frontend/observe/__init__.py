"""What a run does to the world around it: the state that it reads and writes, what it draws, prints and logs."""
