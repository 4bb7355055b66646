"""What is handed out: publications of a release, with their cards, and the rows that have left them."""
