"""Tools for constitutions beside a run: try, test, diff and trace."""
