import { useEffect, useState } from "react";
import { SignIn } from "./pages/SignIn";
import { ElitesPage } from "./pages/ElitesPage";
import { ItemsPage } from "./pages/ItemsPage";
import { NewSearch } from "./pages/NewSearch";
import { RunPage } from "./pages/RunPage";
import { Runs } from "./pages/Runs";
import { Link } from "./parts/Link";
import { usePath } from "./place";

export function App() {
  const path = usePath();
  const [locked, setLocked] = useState(false);

  useEffect(() => {
    const lock = () => setLocked(true);
    window.addEventListener("evomerge:sign-in", lock);
    return () => window.removeEventListener("evomerge:sign-in", lock);
  }, []);

  return (
    <>
      <a className="skip" href="#main">Skip to content</a>
      <header className="top">
        <Link to="/" className="brand">
          <img src="/icon.svg" alt="" width="22" height="22" /> evomerge
        </Link>
        <nav aria-label="Main">
          <Link to="/" current={path === "/"}>Runs</Link>
          <Link to="/new" current={path === "/new"}>New search</Link>
        </nav>
      </header>
      <main id="main" tabIndex={-1}>
        {locked ? <SignIn done={() => location.reload()} /> : <Page path={path} />}
      </main>
    </>
  );
}

function Page({ path }: { path: string }) {
  if (path === "/") return <Runs />;
  if (path === "/new") return <NewSearch />;
  const part = /^\/runs\/([^/]+)\/(items|elites)\/?$/.exec(path);
  if (part?.[2] === "items") return <ItemsPage key={part[1]!} id={part[1]!} />;
  if (part) return <ElitesPage key={part[1]!} id={part[1]!} />;
  const match = /^\/runs\/([^/]+)(?:\/candidates\/(\d+))?\/?$/.exec(path);
  if (match) return <RunPage key={match[1]!} id={match[1]!} candidate={match[2] === undefined ? null : Number(match[2])} />;
  return (
    <section className="narrow">
      <h1>Nothing here</h1>
      <p>There is no page at {path}. <Link to="/">All runs</Link></p>
    </section>
  );
}
