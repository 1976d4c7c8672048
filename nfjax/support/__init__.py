"""What commands share that knows no model: tables, archives, pictures, progress, checks before anything is imported."""
