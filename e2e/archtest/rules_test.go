package archtest

// A rule forbids imports, with the reason that a failure prints. Patterns are import paths; "..." at the end stands for the
// package and any below, "*" matches within one element of the path, and "antipode.example/" is left out. {name} in `forbid` and `allow` is what
// the "*" of `from` stood for.
type rule struct {
	from   []string
	forbid []string
	allow  []string // exceptions to forbid
	tests  bool     // also for the imports of test files
	reason string
	// breaks is an import, "package imports package", that the rule must catch: every run shows first that the rule can fail.
	breaks string
}

// What reaches outside the process. A package of rules has no business with it.
var engines = []string{
	"database/sql/...", "github.com/jackc/...", "github.com/redis/...", "github.com/segmentio/kafka-go/...",
	"go.etcd.io/...", "google.golang.org/grpc", "net", "net/http", "os/exec",
}

var rules = []rule{
	{
		from:   []string{"api/..."},
		forbid: []string{"platform/...", "services/...", "regions/...", "deploy/...", "e2e/..."},
		tests:  true,
		reason: "the API is what everything else, other people's clients too, is built on; it builds on nothing of ours",
		breaks: "api/openapi imports platform/fault",
	},
	{
		from:   []string{"platform/..."},
		forbid: []string{"services/...", "regions/...", "deploy/...", "e2e/..."},
		tests:  true,
		reason: "platform is a library for any service; what knows one service or one deployment lives above it",
		breaks: "platform/rpc imports services/user",
	},
	{
		from:   []string{"platform/..."},
		forbid: []string{"api/..."},
		allow:  []string{"api/gen/antipode/auth/...", "api/gen/antipode/record/...", "api/gen/antipode/replication/..."},
		reason: "platform merges and replicates records of any type, and reads of any RPC who may call it; a service's own messages reach it as values",
		breaks: "platform/store imports api/gen/antipode/user/v1",
	},
	{
		from:   []string{"services/*/..."},
		forbid: []string{"services/..."},
		allow:  []string{"services/{name}", "services/{name}/..."},
		tests:  true,
		reason: "services speak to each other through their APIs, so that each can be deployed, scaled and broken alone",
		breaks: "services/session/app imports services/user",
	},
	{
		from:   []string{"services/..."},
		forbid: []string{"regions/...", "deploy/...", "e2e/..."},
		tests:  true,
		reason: "a service does not know what runs it: the same binary runs in the lab, on a server and in a cluster",
		breaks: "services/user/app imports regions/lab",
	},
	{
		from:   []string{"regions/...", "e2e/..."},
		forbid: []string{"services/..."},
		tests:  true,
		reason: "what runs and tests the system uses services as clients do; a service in a namespace is a process of its own",
		breaks: "regions/lab imports services/user/app",
	},
	{
		from:   []string{"regions/..."},
		forbid: []string{"e2e/..."},
		tests:  true,
		reason: "operators run what is in regions; tests are built on it",
		breaks: "regions/drill imports e2e",
	},
	{
		from:   []string{"deploy/..."},
		forbid: []string{"api/...", "platform/...", "services/...", "regions/...", "e2e/..."},
		tests:  true,
		reason: "deploy holds files for engines and clusters; its only Go embeds them",
		breaks: "deploy imports platform/config",
	},
	{
		from:   []string{"platform/record", "platform/state", "platform/causal", "platform/hlc", "platform/id"},
		forbid: append([]string{"os", "time/tzdata", "log/slog", "math/rand/..."}, engines...),
		reason: "the rules of merging and causality are pure: the simulation replays them from a seed",
		breaks: "platform/state imports github.com/jackc/pgx/v5",
	},
	{
		from:   []string{"platform/record", "platform/state", "platform/causal", "platform/hlc", "platform/id"},
		forbid: []string{"platform/..."},
		allow:  []string{"platform/record", "platform/state", "platform/causal", "platform/hlc", "platform/id"},
		reason: "the rules of merging and causality stand at the bottom, below everything that has effects",
		breaks: "platform/causal imports platform/store",
	},
	{
		from:   []string{"services/*"},
		forbid: append([]string{"services/{name}/...", "platform/pg", "platform/kafka", "platform/rpc", "platform/gateway", "platform/resource", "platform/service", "platform/replicate", "platform/capture"}, engines...),
		// Rules, too, in packages of their own.
		allow:  []string{"services/asset/internal/media", "services/asset/internal/signedurl"},
		reason: "the domain package states rules and the interfaces that it needs; adapters depend on it, never the other way round",
		breaks: "services/user imports services/user/internal/rpc",
	},
	{
		from:   []string{"services/*/internal/rpc"},
		forbid: []string{"github.com/jackc/...", "database/sql/...", "platform/pg", "services/{name}/internal/postgres"},
		reason: "the rpc package turns messages into calls of the domain and back; a statement in it would escape the fence",
		breaks: "services/user/internal/rpc imports github.com/jackc/pgx/v5",
	},
	{
		from:   []string{"services/*/cmd/*"},
		forbid: []string{"platform/...", "api/...", "services/{name}", "services/{name}/internal/...", "github.com/...", "google.golang.org/...", "go.etcd.io/..."},
		reason: "a main handles signals and the exit; all wiring is in app, where a test can boot it",
		breaks: "services/user/cmd/userd imports platform/store",
	},
	{
		from:   []string{"api/...", "platform/...", "services/...", "regions/..."},
		forbid: []string{"platform/*test", "platform/*/*test", "testing", "go.uber.org/goleak", "pgregory.net/rapid"},
		reason: "test fixtures stay out of programs",
		breaks: "platform/store imports platform/pgtest",
	},
}

// Names that say nothing about what is inside, so everything ends up there.
var emptyNames = []string{"util", "utils", "common", "types", "models", "model", "helpers", "helper", "misc", "base", "shared", "lib"}

// The only files of hand-written Go in modules that are not for code.
var onlyFiles = []struct {
	dir, except string // Go files below dir and not below except
	files       []string
	reason      string
}{
	{"api", "api/gen", []string{"api/openapi/embed.go"}, "the API is written in .proto files; Go in it is generated, or embeds the OpenAPI document"},
	{"deploy", "", []string{"deploy/embed.go"}, "deploy holds files for engines and clusters; its only Go embeds them"},
}

// mainLines bounds cmd/*/main.go of services.
const mainLines = 60
