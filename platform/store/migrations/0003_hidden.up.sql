-- Records that lists do not show, for those who finish what was left half-done.
create index records_hidden on records (type, create_time, id) where not visible and not deleted;
