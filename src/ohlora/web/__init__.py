"""Pages for people, served by aiohttp: DVC brings it along, and it parses, limits and times out requests itself."""
