import type { ProblemError } from "../api";

/** A problem document for a person: what is wrong, where, and what would do. */
export function Trouble({ error }: { error: ProblemError }) {
  const { title, detail, errors = [] } = error.problem;
  return (
    <div className="trouble" role="alert">
      <strong>{title}</strong>
      {errors.length === 0 ? <p>{detail}</p> : (
        <ul>
          {errors.map((one, index) => (
            <li key={index}>
              {(one.pointer ?? one.parameter) && <code>{one.pointer || one.parameter}</code>}
              <span>{shorten(one.detail, one.pointer ?? one.parameter ?? "")}</span>
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}

/** The place stands before the message already. */
const shorten = (detail: string, place: string) => (place && detail.startsWith(`${place}: `) ? detail.slice(place.length + 2) : detail);
