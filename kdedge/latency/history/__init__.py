"""Every launch and verdict, kept in a database that several machines may share: for plots and change points, never as a baseline."""
