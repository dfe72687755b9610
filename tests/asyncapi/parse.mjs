import { Parser } from '@asyncapi/parser';
import { readFileSync } from 'fs';
const { document, diagnostics } = await new Parser().parse(readFileSync(process.argv[2], 'utf8'));
for (const d of diagnostics) console.log(d.severity, d.code, d.path.join('.'), d.message);
console.log(document ? `parsed ${document.version()} ${document.channels().all().length} channels ${document.operations().all().length} operations` : 'not parsed');
