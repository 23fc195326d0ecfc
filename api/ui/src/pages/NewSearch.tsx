import { type ChangeEvent, useEffect, useRef, useState } from "react";
import { type Alias, type Checked, type Described, get, type Page, ProblemError, type Run, submit, validate } from "../api";
import { Trouble } from "../parts/Trouble";
import { go, useQuery } from "../place";

type Answer = { kind: "checked"; checked: Checked } | { kind: "wrong"; error: ProblemError } | null;
interface Catalog { models: Alias[]; evalSets: Alias[]; optimizers: Described[]; methods: Described[]; metrics: Described[] }

export function NewSearch() {
  const from = useQuery().get("from");
  const catalog = useCatalog();
  const [text, setText] = useState("");
  const [answer, setAnswer] = useState<Answer>(null);
  const [busy, setBusy] = useState(false);
  const touched = useRef(false);
  const key = useRef({ text: "", key: "" });

  useEffect(() => {
    document.title = "New search · evomerge";
  }, []);
  useEffect(() => {
    if (!from) return;
    get<Run>(`/runs/${from}`).then((run) => setText(JSON.stringify(run.spec, null, 2)), () => undefined);
  }, [from]);
  useEffect(() => {
    if (catalog && !from && !touched.current) setText(example(catalog));
  }, [catalog, from]);

  const edit = (value: string) => {
    touched.current = true;
    setText(value);
    setAnswer(null);
  };
  const send = async (work: () => Promise<void>) => {
    setBusy(true);
    try {
      await work();
    } catch (reason) {
      if (reason instanceof ProblemError) setAnswer({ kind: "wrong", error: reason });
      else throw reason;
    } finally {
      setBusy(false);
    }
  };
  const check = () => send(async () => setAnswer({ kind: "checked", checked: await validate(text) }));
  const start = () => send(async () => {
    // The same text sent twice (a double click, a lost answer) is one run.
    if (key.current.text !== text) key.current = { text, key: randomKey() };
    go(`/runs/${(await submit(text, key.current.key)).id}`);
  });
  const open = (event: ChangeEvent<HTMLInputElement>) => void event.target.files?.[0]?.text().then(edit);

  return (
    <section>
      <h1>New search</h1>
      <div className="split">
        <div className="stack">
          <label className="stack">
            <span>What to search, as YAML or JSON</span>
            <textarea value={text} onChange={(event) => edit(event.target.value)} spellCheck={false} rows={26} className="mono" data-testid="spec" />
          </label>
          <div className="actions">
            <button className="primary" onClick={() => void start()} disabled={busy || text.trim() === ""}>Start search</button>
            <button onClick={() => void check()} disabled={busy || text.trim() === ""}>Check</button>
            <label className="button file">Open a file<input type="file" accept=".yaml,.yml,.json" onChange={open} /></label>
            {busy && <span className="muted" role="status">checking…</span>}
          </div>
          {answer?.kind === "wrong" && <Trouble error={answer.error} />}
          {answer?.kind === "checked" && <CheckedSummary checked={answer.checked} />}
        </div>
        {catalog && <CatalogList catalog={catalog} />}
      </div>
    </section>
  );
}

function CheckedSummary({ checked }: { checked: Checked }) {
  return (
    <div className="good" role="status" data-testid="checked">
      <strong>This search can run.</strong>
      <p>
        {checked.dimension} genes; {Object.entries(checked.items).map(([name, { search, holdout }]) => `${name}: ${search} search and ${holdout} holdout items`).join("; ")}.
      </p>
      {checked.warnings.length > 0 && <ul>{checked.warnings.map((warning) => <li key={warning}>{warning}</li>)}</ul>}
      <details>
        <summary>Genes</summary>
        <ol className="genes mono small">{checked.genes.map((gene) => <li key={gene}>{gene}</li>)}</ol>
      </details>
    </div>
  );
}

function useCatalog(): Catalog | null {
  const [catalog, setCatalog] = useState<Catalog | null>(null);
  useEffect(() => {
    const items = <T,>(path: string) => get<Page<T>>(path).then((page) => page.items);
    Promise.all([
      items<Alias>("/models"), items<Alias>("/eval-sets"), items<Described>("/optimizers"), items<Described>("/methods"),
      items<Described>("/metrics"),
    ]).then(([models, evalSets, optimizers, methods, metrics]) => setCatalog({ models, evalSets, optimizers, methods, metrics }),
      () => undefined); // the form works without the list beside it
  }, []);
  return catalog;
}

/** What this service knows by name. */
function CatalogList({ catalog }: { catalog: Catalog }) {
  const aliases = (title: string, items: Alias[]) => (
    <div>
      <h3>{title}</h3>
      {items.length === 0 ? <p className="muted small">none registered</p> : (
        <ul className="names">{items.map((one) => <li key={one.name}><code>{one.name}</code>{!one.available && <span className="bad small"> is gone</span>}</li>)}</ul>
      )}
    </div>
  );
  const described = (title: string, items: Described[]) => (
    <div>
      <h3>{title}</h3>
      <ul className="names">{items.map((one) => <li key={one.name}><code title={one.description}>{one.name}</code></li>)}</ul>
    </div>
  );
  return (
    <aside className="catalog" aria-label="What this service knows">
      {aliases("Models", catalog.models)}
      {aliases("Eval sets", catalog.evalSets)}
      {described("Optimizers", catalog.optimizers)}
      {described("Merge methods", catalog.methods)}
      {described("Metrics", catalog.metrics)}
    </aside>
  );
}

/** A search over what is registered, to begin with. */
function example({ models, evalSets }: Catalog): string {
  const base = models.find((one) => one.name === "base")?.name ?? models[0]?.name ?? "my-base";
  const sources = models.map((one) => one.name).filter((name) => name !== base);
  const chosen = sources.length > 0 ? sources.slice(0, 4) : ["my-source-a", "my-source-b"];
  const evalSet = evalSets[0]?.name ?? "my-eval-set";
  return `schema: evomerge.run/1
name: my search
models:
  base: ${base}
  sources:
${chosen.map((name) => `    ${name}: ${name}`).join("\n")}
space:
  kind: parameter
  method: task_arithmetic
  weight: [-0.5, 1.5]
  layers: 3
objectives:
  - name: ${evalSet}
    eval_sets: [${evalSet}]
    metric: accuracy
optimizer:
  name: auto
budget:
  candidates: 60
seed: 1
`;
}

/** randomUUID needs a secure context; an address in a local network is none. */
function randomKey(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
