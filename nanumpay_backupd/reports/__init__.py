"""The report of the last days: its figures, and how it looks as text and as a page. Who gets it is not decided here."""
