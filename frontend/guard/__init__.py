"""When a program fits a call, and what it leaves behind: arguments taken apart, state read and written, guards."""
