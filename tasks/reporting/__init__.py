"""The parts of the report page: reading, numbers, HTML, scales, charts, sections, page."""
