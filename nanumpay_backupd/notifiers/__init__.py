"""Ways to tell people: messages by apprise, records in the application's database, pings. When is `alerts`' matter."""
