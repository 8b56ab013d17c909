-- Who owns a slot is decided here and nowhere else. Each database has a row for every slot.
create table slots (
    slot  smallint primary key check (slot between 0 and 4095),
    owned boolean not null,
    epoch bigint not null check (epoch > 0)
);

-- The replica that lives here: region number in the upper 16 bits, incarnation in the lower 16.
create table replica (
    one boolean primary key default true check (one),
    id  bigint not null check (id > 0)
);

-- What this region has of each user: an encoded antipode.record.v1.Vector, equal vectors being equal bytes. Writers lock this row before the user's records.
create table causality (
    user_id   uuid primary key,
    slot      smallint not null,
    vector    bytea not null,
    max_stamp bigint not null
) with (fillfactor = 80);
create index causality_by_slot on causality (slot, user_id);

-- Records: body is an encoded antipode.record.v1.Record. The columns beside it are made from it, for lists.
create table records (
    user_id     uuid not null,
    type        text not null collate "C",
    id          uuid not null,
    slot        smallint not null,
    deleted     boolean not null,
    visible     boolean not null,
    create_time timestamptz,
    body        bytea not null,
    primary key (user_id, type, id)
) with (fillfactor = 80);
create index records_by_create_time on records (type, create_time, id) where visible;
-- Deleted users: the record whose id is the user's own is deleted.
create index records_graves on records (user_id) where deleted and id = user_id;

-- Writes that lost against a concurrent write: body is an encoded antipode.record.v1.Conflict.
create table conflicts (
    name    text primary key collate "C",
    user_id uuid not null,
    slot    smallint not null,
    stamp   bigint not null,
    body    bytea not null
);
create index conflicts_by_user on conflicts (user_id, stamp, name);
create index conflicts_by_stamp on conflicts (stamp, name);

-- Events that build on something that is not here yet: body is an encoded antipode.replication.v1.Event.
create table parked (
    user_id   uuid not null,
    replica   bigint not null,
    n         bigint not null,
    seq       bigint generated always as identity,
    slot      smallint not null,
    parked_at timestamptz not null default clock_timestamp(),
    body      bytea not null,
    primary key (user_id, replica, n)
);
create index parked_by_age on parked (parked_at, seq);

-- How far each log of another region was applied here.
create table positions (
    log       text not null,
    partition integer not null,
    next      bigint not null,
    primary key (log, partition)
);
