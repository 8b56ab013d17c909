// Package mutants breaks the program on purpose, one guarantee at a time, and wants a test to notice each time: the test of the table, by name.
//
// A mutant is a text for another text in one file, given to the go command as an overlay, so that no file of the repository changes. With -accept all of them
// run; else two, and of the others only that they still fit the code.
package mutants

// mutant is a way in which the program could be wrong, and the test that has to notice.
type mutant struct {
	// name says what is wrong, guarantee what breaks by it.
	name, guarantee string
	// file, from the root of the repository, has the text old in one place, for which new is put in.
	file, old, new string
	// dir is the package of the test, from the root.
	dir, test string
}

var table = []mutant{
	{
		name: "events are applied without the fence of their slots", guarantee: "nothing acknowledged is lost while a slot moves",
		file: "platform/store/rows.go", old: "	shard.Fence(b, s.engine.Replica, slots...)\n", new: "	shard.Fence(b, s.engine.Replica)\n",
		dir: "platform/store", test: "TestApplyMeetsAMovedSlot",
	},
	{
		name: "the fence looks and does not lock", guarantee: "nothing acknowledged is lost while a slot moves",
		file: "platform/shard/fence.go",
		old:  "	b.Queue(\"select pg_advisory_xact_lock_shared($1, slot) from unnest($2::int[]) as slot\", LockClass, sorted)\n", new: "",
		dir: "platform/store", test: "TestFenceHoldsAgainstAMoveInProgress",
	},
	{
		name: "capture publishes what the standby does not have", guarantee: "nothing that may still be lost is told to anyone",
		file: "platform/capture/publish.go", old: "		if limit >= want {\n", new: "		if want > 0 {\n",
		dir: "platform/capture", test: "TestPublishesOnlyWhatTheStandbyHas",
	},
	{
		name: "capture takes an error of Kafka for success", guarantee: "each event of a committed write reaches the log",
		file: "platform/capture/publish.go", old: "		err := c.config.Publisher.Publish(ctx, messages)\n		if err == nil {\n",
		new: "		if err := c.config.Publisher.Publish(ctx, messages); true {\n			_ = err\n			break\n		}\n		err := error(nil)\n		if err == nil {\n",
		dir: "platform/capture", test: "TestUnknownOutcomeIsRepeated",
	},
	{
		name: "the last writer of a row wins", guarantee: "concurrent changes of different fields are all kept",
		file: "platform/record/merge.go", old: "	t := r.typeOf(a.Record.GetType())\n	oa, err := t.open(a.Record)\n",
		new: `	last := func(rec *recordv1.Record) (s uint64) {
		for _, l := range rec.GetLeaves() {
			s = max(s, l.GetStamp())
		}
		return s
	}
	if x, y := last(a.Record), last(b.Record); x != y {
		winner := a.Record
		if y > x {
			winner = b.Record
		}
		rec, err := r.canonical(winner)
		return rec, nil, err
	}
	t := r.typeOf(a.Record.GetType())
	oa, err := t.open(a.Record)
`,
		dir: "platform/record", test: "TestMergeOfConcurrentWrites",
	},
	{
		name: "an event is applied though something that it builds on is missing", guarantee: "regions apply in causal order, and no gap passes",
		file: "platform/state/apply.go", old: "	} else if !u.Vector.Dominates(in.before(dot)) {\n", new: "	} else if dot.N == 0 {\n",
		dir: "platform/state", test: "TestEventsApplyInCausalOrder",
	},
	{
		name: "a write is not stamped above what its caller has seen", guarantee: "what is written is ordered after what was read",
		file: "platform/state/write.go", old: "hlc.Next(o.Now, u.MaxStamp, o.Seen)", new: "hlc.Next(o.Now, u.MaxStamp, 0)",
		dir: "platform/state", test: "TestWritesStampAboveWhatWasSeen",
	},
	{
		name: "a keyed creation is stamped with the time", guarantee: "a retry in another region undoes no later change",
		file: "platform/record/apply.go", old: "		l.stamp = 0\n", new: "		_ = l.stamp\n",
		dir: "platform/record", test: "TestKeyedCreates",
	},
	{
		name: "a deletion is merged like any field", guarantee: "a deletion wins over every concurrent change",
		file: "platform/record/merge.go", old: "a.Record.GetDeleted() != nil || b.Record.GetDeleted() != nil:", new: "a.Record.GetDeleted() != nil && b.Record.GetDeleted() != nil:",
		dir: "services/user", test: "TestDeletionIsFinal",
	},
	{
		name: "a region that was wiped keeps its incarnation", guarantee: "no two writes have one name",
		file: "platform/store/incarnation.go", old: "	next := last + 1\n	given, err := give(ctx, region, next, numbers)\n",
		new: "	next := max(last, 1)\n	given, err := true, error(nil)\n",
		dir: "platform/store", test: "TestAWipedRegionNamesItsWritesAnew",
	},
	{
		name: "a new incarnation does not wait for the writers of the old one", guarantee: "what was acknowledged before the end of an incarnation is not given up",
		file: "platform/store/ended.go", old: "lock table replica in access exclusive mode", new: "lock table replica in access share mode",
		dir: "platform/store", test: "TestANewIncarnationWaitsForTheWritersOfTheOld",
	},
	{
		name: "events of an incarnation that was stopped are applied", guarantee: "regions agree on what is lost",
		file: "platform/store/apply.go", old: "	if bt.stopped[causal.DotOf(ev.GetDot()).Replica] &&", new: "	if false &&",
		dir: "platform/store", test: "TestNothingOfAStoppedReplicaIsApplied",
	},
	{
		name: "an incarnation is closed by regions that have not read its log", guarantee: "what can still arrive is not given up",
		file: "platform/replicate/closing.go", old: "	if x.Region() == c.store.Replica().Region() {\n", new: "	if x != 0 {\n",
		dir: "platform/replicate", test: "TestAnIncarnationIsNotClosedUnread",
	},
	{
		name: "the offset is stored before its batch is applied", guarantee: "a crash repeats, and never skips",
		file: "platform/store/apply.go", old: "	bt := newBatch(s, inputs)\n	if err := bt.load(ctx, tx); err != nil {\n",
		new: `	if early, err := sh.Primary.Begin(ctx); err == nil {
		b := &pgx.Batch{}
		s.queuePosition(b, pos)
		if err := early.Commit(ctx, "store the position of a log", b); err != nil {
			return Applied{}, nil, err
		}
	}
	bt := newBatch(s, inputs)
	if err := bt.load(ctx, tx); err != nil {
`,
		dir: "platform/store", test: "TestFailedBatchChangesNothing",
	},
	{
		name: "a log that jumps is read on", guarantee: "regions that missed something catch up",
		file: "platform/replicate/stream.go", old: "	p.suspect(why)\n", new: "	_ = why\n",
		dir: "platform/replicate", test: "TestLogMadeAnew",
	},
	{
		name: "an event that cannot be applied is dropped", guarantee: "nothing disappears without a dead letter",
		file: "platform/replicate/letters.go", old: "		added, err := f.keep(ctx, m, l)\n", new: "		added, err := false, error(nil)\n",
		dir: "platform/replicate", test: "TestPoisonGoesToTheDeadLetters",
	},
	{
		name: "a commit whose wait for the standby was cut short is acknowledged", guarantee: "what was acknowledged is on two disks",
		file: "platform/pg/tx.go", old: "	if w, ok := warnings[warningKey].(*pgconn.Notice); ok {\n", new: "	if w, ok := warnings[warningKey].(*pgconn.Notice); ok && w == nil {\n",
		dir: "platform/pg", test: "TestCommitWaitingForStandby",
	},
	{
		name: "the cache is set whatever is in it", guarantee: "an older copy never replaces a newer one",
		file: "platform/cache/set.lua", old: "  if struct.unpack('>I8', old) > struct.unpack('>I8', ARGV[1]) then\n", new: "  if false then\n",
		dir: "platform/cache", test: "TestVersions",
	},
	{
		name: "what is refused is taken all the same", guarantee: "a limit takes from all that it looks at, or from none",
		file: "platform/limit/limit.lua", old: "if refused == 0 then\n", new: "if true then\n",
		dir: "platform/limit", test: "TestAllOrNone",
	},
	{
		name: "without Redis everything is allowed", guarantee: "limits hold while Redis is gone",
		file: "platform/limit/limit.go", old: "	return l.alone.decide(how, units), nil\n", new: "	return decision{refused: -1}, nil\n",
		dir: "platform/limit", test: "TestRedisGone",
	},
	{
		name: "a region leaves the work of a silent one to any that is heard", guarantee: "somebody does the work of a region that is dead",
		file: "platform/takeover/takeover.go", old: "p.Number < self", new: "p.Number != 0",
		dir: "platform/takeover", test: "TestSomebodyActs",
	},
	{
		name: "a region forgets users only where it deleted them itself", guarantee: "what is kept of a deleted user goes, though the region of the deletion is dead",
		file: "platform/takeover/takeover.go", old: "		if !p.silent() && (p.Number", new: "		if p.Number != 0 && (p.Number",
		dir: "platform/forget", test: "TestActingRegionForgets",
	},
	{
		name: "who does not know the question is taken for saying that the user was deleted", guarantee: "only users who were deleted are forgotten",
		file: "platform/forget/sweep.go", old: " && status.Code(f.Cause) != codes.Unimplemented", new: " && status.Code(f.Cause) != codes.OK+99",
		dir: "platform/forget", test: "TestSweep",
	},
	{
		name: "a claim is confirmed whoever it names", guarantee: "no address has two owners",
		file: "platform/claims/claims.go", old: "If(clientv3.Compare(clientv3.Value(string(key)), \"=\", expected)).Then(op(expected))",
		new: "If(clientv3.Compare(clientv3.CreateRevision(string(key)), \">\", 0)).Then(op(expected))",
		dir: "platform/claims", test: "TestLifeOfAClaim",
	},
	{
		name: "a sign-up is named by its key alone", guarantee: "one key does not stand for two requests",
		file: "services/user/create.go", old: "canonical, c.Key, string(n.fingerprint))", new: "canonical, c.Key)",
		dir: "services/user/internal/rpc", test: "TestTwoRegions",
	},
	{
		name: "a password change notes no revocation", guarantee: "a new password ends all sessions that did not know of it",
		file: "services/user/change.go", old: "		setPassword(rec, c.hash, d.Now())\n		endSessions(d, rec)\n", new: "		setPassword(rec, c.hash, d.Now())\n",
		dir: "services/user/internal/rpc", test: "TestAPI",
	},
	{
		name: "a role that is taken away notes no revocation", guarantee: "nobody keeps a role by a token from before",
		file: "services/user/change.go", old: "			if takes {\n", new: "			if takes && gives {\n",
		dir: "services/user/internal/rpc", test: "TestAPI",
	},
	{
		name: "a keyed sign-up hashes with a random salt", guarantee: "a keyed sign-up with a password has one effect, in whichever regions it is tried",
		file: "services/user/password.go", old: "	if c.Key == \"\" {\n", new: "	if c.Password != nil {\n",
		dir: "services/user/internal/rpc", test: "TestTwoRegions",
	},
	{
		name: "a password that is hashed anew counts as set anew", guarantee: "a region that has not heard of a new password does not bring the old one back",
		file: "services/user/credential.go", old: "stored{old.set + 1, hash}", new: "stored{old.set + 1<<60, hash}",
		dir: "services/user/internal/rpc", test: "TestTwoRegions",
	},
	{
		name: "a password is compared in a copy from the cache", guarantee: "a password that was changed is wrong at once",
		file: "services/user/credential.go", old: "s.users.Latest(ctx, ", new: "s.users.Get(ctx, ",
		dir: "services/user/internal/rpc", test: "TestAPI",
	},
	{
		name: "a read answers what is here, whatever its caller has seen", guarantee: "a client's own past is always there",
		file: "platform/copies/read.go", old: "	if err != nil || c.Deleted || e.Vector.Dominates(seen.Vector) {", new: "	if err != nil || c.Ref == ref {",
		dir: "services/user/internal/rpc", test: "TestAPI",
	},
	{
		name: "a record outlives its user", guarantee: "with a deleted user, all of the user's records are deleted",
		file: "platform/copies/cache.go", old: "if other.ID == user && rec.GetDeleted() != nil {", new: "if other == k && rec.GetDeleted() != nil {",
		dir: "platform/copies", test: "TestRecords",
	},
	{
		name: "a token is accepted by any region's key", guarantee: "a region speaks for itself only",
		file: "platform/auth/token.go", old: "key.region != p.Issuer", new: "key.region == \"\"",
		dir: "platform/auth", test: "TestBadTokens",
	},
	{
		name: "a revocation is not compared with what a sign-in knew of", guarantee: "a sign-in that was concurrent with a revocation does not survive it",
		file: "platform/auth/revoked.go", old: "!seen.Covers(need.dot)", new: "len(seen) == 0",
		dir: "platform/auth", test: "TestDead",
	},
	{
		name: "a publisher that does not know yet what is revoked is believed", guarantee: "who follows knows how much he knows",
		file: "platform/auth/publish.go", old: "	if !p.loaded {", new: "	if p.watchers == nil {",
		dir: "platform/auth", test: "TestKnowledge",
	},
	{
		name: "a new public key signs at once", guarantee: "a rotation of keys refuses nobody",
		file: "platform/auth/rotate.go", old: "now.Before(due) {", new: "due.IsZero() {",
		dir: "platform/auth", test: "TestRotationOverlaps",
	},
	{
		name: "access tokens are judged by a clock that is wrong", guarantee: "a region whose clock is wrong answers reads",
		file: "platform/service/clock.go", old: "	return now.Add(clockOff(now, c.peers()))\n", new: "	return now\n",
		dir: "platform/service", test: "TestAClockThatIsSetWrong",
	},
	{
		name: "a clock is believed until it is compared again", guarantee: "a clock that is set wrong stamps nothing",
		file: "platform/replicate/peer.go", old: "	return c.Offset + c.Own.Round(0).Add(time.Since(c.At)).Sub(now.Round(0))\n", new: "	return c.Offset\n",
		dir: "platform/service", test: "TestAClockThatIsSetWrong",
	},
	{
		name: "what a region denies counts as any other refusal", guarantee: "a drill finds that somebody was signed out",
		file: "regions/drill/load.go", old: "	w.RequestID, w.Denied = a.RequestID(), a.Denied()\n", new: "	w.RequestID = a.RequestID()\n",
		dir: "regions/drill", test: "TestADenialIsNoRefusalLikeOthers",
	},
	{
		name: "a bad token counts as none", guarantee: "who believes to be signed in learns that he is not",
		file: "platform/auth/guard.go", old: "	default:\n		return Caller{}, fault.New(fault.Unauthenticated, \"the access token is not valid\").Because(err)\n",
		new: "	default:\n		return Caller{}, nil\n",
		dir: "platform/auth", test: "TestGuard",
	},
	{
		name: "a request is validated before it is known who calls", guarantee: "strangers learn nothing of what they may not call",
		file: "platform/rpc/chain.go", old: "		chain = append(chain, cfg.Access.Unary) ", new: "		chain = append(chain, validate(validator), cfg.Access.Unary) ",
		dir: "platform/gateway", test: "TestAccess",
	},
	{
		name: "whoever uses a refresh token gets the same next one", guarantee: "a thief is found out",
		file: "services/session/token.go", old: "append(parent.append(nil), key...)", new: "parent.append(nil)",
		dir: "services/session", test: "TestAThiefEndsTheSession",
	},
	{
		name: "a session does not end by what its sign-in did not know of", guarantee: "a sign-in that was concurrent with the end of all sessions does not survive it",
		file: "services/session/session.go", old: "!coversAll(sessions, revocations)", new: "len(sessions) == 0 && !coversAll(sessions, revocations)",
		dir: "services/session", test: "TestARevocationOfAllWinsOverWhatIsConcurrent",
	},
	{
		name: "a session that was ended goes on when it is used later", guarantee: "signing out wins over what is done with the session elsewhere",
		file: "services/session/session.go", old: "	case rec.GetRevokeTime() != nil, ", new: "	case rec.GetRevokeTime() != nil && rec.GetRevokeTime().AsTime().After(rec.GetLastUseTime().AsTime()), ",
		dir: "services/session/internal/rpc", test: "TestTwoRegions",
	},
	{
		name: "a sign-in claims to know of more than was there before it", guarantee: "what a session was made under is what its sign-in knew of",
		file: "services/session/signin.go", old: "	sessions, err := encode(d.Vector().Proto())\n",
		new: "	after := d.Vector().Clone()\n	after[d.Dot().Replica] = d.Dot().N\n	sessions, err := encode(after.Proto())\n",
		dir: "services/session/internal/rpc", test: "TestAPI",
	},
	{
		name: "a theft is told and not written", guarantee: "who hears that a session has ended can rely on it",
		file: "services/session/refresh.go", old: "t.changed = !proto.Equal(before, rec); !t.changed {", new: "t.changed = !proto.Equal(before, rec); !t.changed || t.theft {",
		dir: "services/session/internal/rpc", test: "TestAPI",
	},
	{
		name: "a sign-in that is repeated in another region makes a session of its own", guarantee: "a request with an idempotency key has one effect, wherever it is tried",
		file: "services/session/signin.go", old: "\"CreateSession\", user.User.String(), a.Key)", new: "\"CreateSession\", user.User.String(), a.Key, s.c.Copies.Region)",
		dir: "services/session/internal/rpc", test: "TestTwoRegions",
	},
	{
		name: "the cache outlives a user who was forgotten", guarantee: "of a deleted user nothing is read again",
		file: "services/session/read.go", old: "	if account.Deleted {\n", new: "	if account.Deleted && account.Found {\n",
		dir: "services/session/internal/rpc", test: "TestTwoRegions",
	},
	{
		name: "a publisher says that it knows all when one shard has answered", guarantee: "who is told that he knows everything does",
		file: "platform/service/revocations.go", old: "len(f.mark) == f.shards", new: "len(f.mark) > 0",
		dir: "platform/service", test: "TestFeedWaitsForEveryShard",
	},
	{
		name: "a region that has forgotten says that it knows what is revoked", guarantee: "who is told that he knows everything does",
		file: "platform/service/revocations.go", old: "	if !f.may() {", new: "	if f.may == nil {",
		dir: "platform/service", test: "TestFeedWaitsForTheRegion",
	},
	{
		name: "a shard whose server has crashed is read on from its mark", guarantee: "what is revoked is passed over by nobody",
		file: "platform/service/revocations.go", old: "	if f.mark = next; again {", new: "	if f.mark = next; again && err != nil {",
		dir: "platform/service", test: "TestFeedReadsAnewAfterABreak",
	},
	{
		name: "a service obeys only what itself revokes", guarantee: "a session that has ended is refused by every service",
		file: "platform/service/auth.go", old: "p.revoked = append(p.revoked, f.Revoked())", new: "_ = f.Revoked()",
		dir: "platform/service", test: "TestServicesObeyEachOther",
	},
	{
		name: "a blob has its name before its content is on the disk", guarantee: "uploads that were acknowledged survive a power cut",
		file: "platform/blob/directory.go", old: "	if err := k.sync(d.file); err != nil {\n		return err\n	}\n", new: "",
		dir: "platform/blob", test: "TestSyncedInOrder",
	},
	{
		name: "what another region gives is believed", guarantee: "a blob is the content that its name says",
		file: "platform/blob/puller.go", old: "		if d.ref() == ref {\n", new: "		if d.size == ref.Size {\n",
		dir: "platform/blob", test: "TestCorruptSources",
	},
	{
		name: "garbage is swept although it was put again", guarantee: "no upload is lost to a sweep",
		file: "platform/blob/directory.go", old: "	case !info.ModTime().Before(unusedSince):\n", new: "	case info == nil:\n",
		dir: "platform/blob", test: "TestPutAgainWhileDeleted",
	},
	{
		name: "a sweep that could not read every record takes the rest for garbage", guarantee: "content that an asset has is there",
		file: "services/asset/internal/stock/sweep.go", old: "	if err := s.walk(ctx, names, &done); err != nil {", new: "	if err := s.walk(ctx, names, &done); err != nil && ctx.Err() != nil {",
		dir: "services/asset/internal/stock", test: "TestNothingIsGarbageUnread",
	},
	{
		name: "content that lost against another is garbage", guarantee: "what lost in a conflict is not gone",
		file: "services/asset/internal/stock/sweep.go", old: "range user.GetConflicts() {", new: "range user.GetConflicts()[:0] {",
		dir: "services/asset/internal/stock", test: "TestSweep",
	},
	{
		name: "a purchase that is repeated in another region is another write", guarantee: "a purchase is made once, wherever it is tried",
		file: "services/asset/purchase.go", old: "copies.Write{Ref: ref, Keyed: true, Remote: remote,", new: "copies.Write{Ref: ref, Remote: remote,",
		dir: "services/asset/internal/rpc", test: "TestTwoRegions",
	},
	{
		name: "RPCs for the process itself are served to everybody", guarantee: "nobody gives an asset the content of another by its hash",
		file: "platform/rpc/server.go", old: "{ w.s.add(desc, impl) }", new: "{ w.s.RegisterService(desc, impl) }",
		dir: "platform/rpc", test: "TestLocal",
	},
	{
		name: "a worker's place moves past what is not done", guarantee: "an image is looked into whoever dies",
		file: "services/asset/internal/progress/progress.go", old: "	place := p.next", new: "	return p.next\n	place := p.next",
		dir: "services/asset/internal/progress", test: "TestThePlaceIsBelowAllThatIsNotDone",
	},
}
