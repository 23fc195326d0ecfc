import { type FormEvent, useState } from "react";
import { ProblemError, signIn } from "../api";
import { Trouble } from "../parts/Trouble";

export function SignIn({ done }: { done: () => void }) {
  const [key, setKey] = useState("");
  const [error, setError] = useState<ProblemError | null>(null);

  const send = (event: FormEvent) => {
    event.preventDefault();
    signIn(key).then(done, (reason: unknown) => setError(reason instanceof ProblemError ? reason : null));
  };
  return (
    <section className="narrow">
      <h1>Sign in</h1>
      <p>This service asks for the API key that its operator set. The browser keeps a session cookie, not the key.</p>
      <form onSubmit={send} className="stack">
        <label>API key
          <input type="password" value={key} onChange={(event) => setKey(event.target.value)} autoComplete="current-password" required autoFocus />
        </label>
        <button className="primary">Sign in</button>
      </form>
      {error && <Trouble error={error} />}
    </section>
  );
}
