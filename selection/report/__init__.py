"""What a person reads of a pick: its page, tables, charts and cards."""
