"""Feature flags: who gets which variant, by everybody, by percent, by cohort."""
