"""What a platform wants to read: one file turns Rows and present states into messages."""
