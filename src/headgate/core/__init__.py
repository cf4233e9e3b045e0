"""The nouns: units, tables, facts and wishes, lifecycle, laws, errors."""
