"""How a report looks: figures, tables, the page, and the folder that they are in."""
